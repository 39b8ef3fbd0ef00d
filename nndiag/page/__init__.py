"""The page: its modules, and the numbers it draws.

The dashboard serves it to TensorBoard; the HTML report holds it whole, with its data. It knows nothing of
measures or runs, and needs neither PyTorch nor TensorBoard.
"""

"""Measurements behind the documentation's figures: ``python -m tests.experiments.<name>`` prints one table.

``shift_error``: the shift between two steps, estimated on fixed samples and from real batches.
``shift_shares``: how much of a layer's shift came in with its inputs, over depth.
``cluster_variance``: how far batch means scatter, against what entries and what samples predict.
"""

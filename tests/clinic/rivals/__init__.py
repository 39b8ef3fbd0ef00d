"""Other tools on the programs of the clinic: what they say, judged by the same marks."""

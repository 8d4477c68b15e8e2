"""Data: where it comes from, how it is read and split, and how batches are drawn and changed."""

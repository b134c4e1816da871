"""The Sample record and its encoding into ids, labels and picture slots."""

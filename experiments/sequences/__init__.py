"""One file for each experiment on sequences of classification tasks."""

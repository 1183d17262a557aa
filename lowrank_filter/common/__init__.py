"""What both packages need: checks of arguments, checkpoints, and the lock of a folder."""

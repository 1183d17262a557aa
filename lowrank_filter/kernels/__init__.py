"""One step of inference on a belief. A kernel never prints, jits itself, or touches a file or a global setting."""

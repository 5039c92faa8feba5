"""The training: loop, step, optimizer, devices and progress."""

"""A regulariser that reads a reference's hidden states and weighs tokens one by one."""

"""The launcher `torchrun`: processes on this machine, and the same on others, through torch's elastic agent."""

"""What the commands share: flags, exit codes, progress, metric writers."""

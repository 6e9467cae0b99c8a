"""What a run takes, before it is paid for: its programs compiled for machines that need not be there."""

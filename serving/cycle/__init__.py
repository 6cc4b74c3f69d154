"""What a development cycle needs of serving: the speed of binaries, and publishing a new version."""

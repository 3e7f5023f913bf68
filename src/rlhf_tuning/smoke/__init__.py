"""What the smoke pipeline tries on a new project or cluster before the first long run: storage, disk, GPUs, NCCL."""

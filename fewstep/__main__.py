"""`python -m fewstep`, for torchrun and accelerate launch."""

from fewstep.cli import main

main()

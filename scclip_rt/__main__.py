"""`python -m scclip_rt`."""

from scclip_rt.cli import main

main()

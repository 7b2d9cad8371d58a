"""`python -m scclip_rt.cli`."""

from scclip_rt.cli import main

main()

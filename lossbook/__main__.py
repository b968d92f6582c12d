"""`python -m lossbook` is the command `lossbook`."""

from lossbook.cli import main

main()

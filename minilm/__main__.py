"""`python -m minilm COMMAND ...`"""

from minilm.cli.commands import main

if __name__ == "__main__":
    main()

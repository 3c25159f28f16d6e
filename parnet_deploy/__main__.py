"""`python -m parnet_deploy`: the command line."""

from parnet_deploy.cli.entry import main

if __name__ == "__main__":
    main()

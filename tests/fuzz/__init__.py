"""Bad input, tried systematically: `python -m tests.fuzz` runs every case, `test_fuzz.py` a sample of them."""

"""Long life: sessions under many threads for very many requests; `python -m tests.soak` is the long form."""

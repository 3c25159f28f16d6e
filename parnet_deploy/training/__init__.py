"""Train ParNets: recipes, data pipelines, the loop and evaluation. Needs torch."""

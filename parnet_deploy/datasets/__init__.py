"""Labelled images for training and evaluation: scikit-learn's digits and image folders. No torch."""

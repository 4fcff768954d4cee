"""Recipes and the loop that trains either stage."""

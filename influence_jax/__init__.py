"""Influence functions with EK-FAC in JAX: which data made a model say this?"""

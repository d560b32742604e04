"""Builds what images/catalog.yml says into a content-addressed store.

errors ← catalog ← keys ← store ← {programs, containers} ← main; machine and progress stand beside them.
"""

"""Measurements on a running lab; by hand, not a part of the tests."""

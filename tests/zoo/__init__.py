"""Tests on published networks."""

"""Tests, laid out as the folders they test; e2e/ starts the real stack."""

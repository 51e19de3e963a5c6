"""Answers to requests, one file a family of APIs."""

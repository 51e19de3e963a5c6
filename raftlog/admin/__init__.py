"""The admin door: health and metrics over HTTP."""

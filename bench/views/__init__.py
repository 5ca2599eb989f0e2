"""What the ingest rows serve beside Medic's own API, by the same server with the same flags."""

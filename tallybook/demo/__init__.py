"""A month of a made-up company: what it uses (workload), who records it (producer), and what becomes of it (story)."""

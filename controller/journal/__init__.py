"""The journal: one SQLite file a run, durable before every act."""

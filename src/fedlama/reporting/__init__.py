"""Results for people: HTML reports, charts, progress bars and trackers; never computes a result of its own."""

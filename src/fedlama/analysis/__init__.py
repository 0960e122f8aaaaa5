"""What runs show together: studies over seeds, statistics, forecasts, time on a link; never prints and never draws."""

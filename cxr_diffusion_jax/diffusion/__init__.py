"""Schedules, processes, objectives, guidance and samplers: pure functions of arrays."""

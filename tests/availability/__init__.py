"""Who answers, and what becomes of those who do not."""

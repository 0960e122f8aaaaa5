"""How the packages that the tests run with are pinned."""

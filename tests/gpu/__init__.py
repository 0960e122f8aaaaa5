"""What must hold on a GPU; without one these tests are skipped. CONTRIBUTING.md says how to run them."""

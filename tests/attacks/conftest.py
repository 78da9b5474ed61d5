def pytest_configure(config):
    config.addinivalue_line("markers", "attack_unprotected: grades attacks without a sandbox, inside a ring that protects the machine, to prove that they would succeed")

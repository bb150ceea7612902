"""What tests share beside the fixtures of conftest.py; each thing stands here once."""

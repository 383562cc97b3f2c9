"""What is checked of input beside its form: shapes that go together, and what looks wrong."""

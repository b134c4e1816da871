"""One script per question; results/ keeps what was measured."""

"""A service that judges images over HTTP: `gapl serve`. docs/serving.md says what it promises."""

"""An engine without a model: answers in the time that the described slice would take at best, with made-up text.

For load tests, the page and failure drills where there is no TPU. It says what it is in every answer's `system_fingerprint`.
"""

FINGERPRINT = "simulated"

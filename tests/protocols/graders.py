"""A grader for random models, whose answers are all wrong otherwise."""

import hashlib


class Spelling:
    """Grades by a hash of the answer, so that the verdicts on a random model's answers differ."""

    def grade(self, items):
        return [float(hashlib.sha256(item.answer.encode()).digest()[0] % 2) for item in items]

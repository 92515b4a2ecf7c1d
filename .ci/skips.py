"""Count the skipped tests of a JUnit report and fail on a reason that is not on the short list."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

ALLOWED = (
    "HEADRACE_DATASETS is not set",  # the real data sets are not part of the project
    "needs libfaketime",  # a clock that jumps is a library in front of the system's
    "needs root",  # some faults can only be injected by root
)


def main(report: str) -> int:
    """Print ``count  reason`` per reason; 1 where one is not allowed."""
    cases = ET.parse(report).getroot().iter("testcase")
    reasons = Counter(skip.get("message") or "no reason" for case in cases for skip in case.iter("skipped"))
    print(f"{sum(reasons.values())} skipped")
    for reason, count in reasons.most_common():
        print(f"{count:5d}  {reason}")
    unknown = [reason for reason in reasons if not any(allowed in reason for allowed in ALLOWED)]
    for reason in unknown:
        print(f"not an allowed reason to skip: {reason}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

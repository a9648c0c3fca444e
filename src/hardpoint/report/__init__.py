"""What people and programs read of a run: an HTML page, JSON, SARIF and JUnit, and comparisons of runs."""

from hardpoint.report.compare import Comparison, Difference, ThreatComparison, compare
from hardpoint.report.compare_html import write_comparison_html
from hardpoint.report.html import write_html
from hardpoint.report.junit import junit
from hardpoint.report.sarif import sarif
from hardpoint.report.summary import report_schema, summary_json
from hardpoint.report.write import ReportFiles, write_report

__all__ = [
    "Comparison",
    "Difference",
    "ReportFiles",
    "ThreatComparison",
    "compare",
    "junit",
    "report_schema",
    "sarif",
    "summary_json",
    "write_comparison_html",
    "write_html",
    "write_report",
]

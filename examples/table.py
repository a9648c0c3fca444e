"""A scikit-learn model behind a black box: rows may change only as the schema allows."""

import hardpoint as hp
from hardpoint.cli.demo.tumours import tumour_table

model, rows, schema = tumour_table()
threat = hp.Threat(hp.FeatureEdits(schema, eps=0.05, norm="linf"), access="scores", queries=100)

result = hp.assess(model, hp.data.subset(rows, 50), threat=threat)
print(result.robust_accuracy)
for finding in result.findings:
    print(finding)

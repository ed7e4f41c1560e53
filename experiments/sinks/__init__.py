"""Where metrics of stages go beside `metrics.jsonl`, one file each."""

"""What a run will take, before it is run: memory from the model's sizes alone, time from one measured step."""

"""Attribution graphs of prompts on a local replacement model, their hierarchy, and circuits of features."""

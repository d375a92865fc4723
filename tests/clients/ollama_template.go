// Renders Ollama's templates with Go's own text/template and prints each text as JSON, a line for each line of input:
// {"template": "…", "messages": [{"role": "user", "content": "…"}]}. Functions, values and the merging of messages are
// those of template/template.go in Ollama 0.33.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	functions := template.FuncMap{"json": func(value any) string { text, _ := json.Marshal(value); return string(text) }}
	input, output := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	input.Buffer(nil, 1<<24)
	for input.Scan() {
		var item struct {
			Template string
			Messages []message
		}
		if err := json.Unmarshal(input.Bytes(), &item); err != nil {
			panic(err)
		}
		parsed := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(item.Template))
		var system []string
		var merged []message
		for _, m := range item.Messages {
			if m.Role == "system" {
				system = append(system, m.Content)
			}
			if last := len(merged) - 1; last >= 0 && merged[last].Role == m.Role {
				merged[last].Content += "\n\n" + m.Content
			} else {
				merged = append(merged, m)
			}
		}
		var text strings.Builder
		values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": merged, "Tools": nil, "Response": ""}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		if err := output.Encode(text.String()); err != nil {
			panic(err)
		}
	}
}

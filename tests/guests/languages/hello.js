// A component of componentize-js alone, with the `fetch` event that it offers by default: `/echo` streams the body back,
// `/fail` throws, `/unfinished` does not end its body for an hour, any other path is greeted.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  switch (pathname) {
    case "/echo":
      return new Response(request.body);
    case "/unfinished":
      return new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(new TextEncoder().encode("the first half"));
            // Without anything to wait for, the runtime would end the body itself.
            setTimeout(() => controller.close(), 3_600_000);
          },
        }),
      );
    case "/fail":
      throw new Error("told to fail");
    default:
      return new Response(`Hello from JavaScript at ${pathname}\n`);
  }
}
